"""Where steps run: devices, machines, and the import of TensorFlow."""
