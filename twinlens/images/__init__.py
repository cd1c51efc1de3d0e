"""Image processing: decoding, resizing, transforms, duplicates, thumbnails."""
