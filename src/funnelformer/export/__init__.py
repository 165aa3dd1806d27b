"""Models for deployment: ONNX graphs of any batch and length, checked against PyTorch, and their int8 forms.

`targets` says what is exported, `graph` traces it, `check` compares it with PyTorch, `calibration` reads texts, `int8`
quantises, `command` writes the folder, and `onnx_model` runs it.
"""
