"""Reading and writing images, EXIF data and model files."""
