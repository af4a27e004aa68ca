"""Networks: backbones, weights, strategies, fine-tuning, checkpoints, inference."""
