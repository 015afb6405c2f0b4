"""The service: decode, validate, window, infer, publish."""
