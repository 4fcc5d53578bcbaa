"""Float32 networks made smaller: quantized to int8, or rid of channels that do nothing."""
