"""Files: images, safetensors, key maps, the hub."""
