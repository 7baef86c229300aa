"""Where steps run: devices, machines, and how TensorFlow starts."""
