"""Models for deployment: ONNX graphs of any batch and length, checked against PyTorch, and their int8 forms.

`signatures` says what is exported, `graph` traces it, `check` compares it with PyTorch, `calibration` reads texts,
`int8` quantises, and `command` writes the folder. `inference.onnx_model` runs it.
"""
