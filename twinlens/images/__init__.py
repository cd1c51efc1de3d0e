"""From bytes to pixels: decoding, resizing, transforms, duplicates, thumbnails."""
