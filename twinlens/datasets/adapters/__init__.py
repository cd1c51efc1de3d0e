"""One adapter for each publisher's layout: COCO, Flickr30k, ImageNet, a folder, tar shards, drawn scenes."""
