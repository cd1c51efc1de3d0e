"""Models over the pool: embedding, captioning and classifying, part by part and resumable."""
