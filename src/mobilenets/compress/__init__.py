"""Float32 networks made smaller: post-training quantization to int8."""
