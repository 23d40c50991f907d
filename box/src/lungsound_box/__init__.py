"""The model in the box: `model.safetensors` in this folder, which lungsound finds by itself."""
