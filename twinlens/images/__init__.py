"""From bytes to pixels: decoding, resizing, transforms, copies, thumbnails."""
