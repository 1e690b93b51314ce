"""Trained models in the formats of others: ONNX, scikit-learn, JSON, safetensors."""
