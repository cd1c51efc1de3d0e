"""Training: losses (`losses.py`: CLIP, SigLIP, margin, triplet), optimisers, towers, projection heads, captioners."""
