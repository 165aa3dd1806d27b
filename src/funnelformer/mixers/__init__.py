"""Token mixers: attention, PoNet's pooling network, FNet's Fourier transform. `Mixer` says what one must offer."""

from .mixer import CallShape, Mixer, MixerFlops, TokenInputs, mixer_class

__all__ = ["CallShape", "Mixer", "MixerFlops", "TokenInputs", "mixer_class"]
