"""Videos, images and live sources: decoding, frame sampling, resizing, patches and clips."""
