"""From URLs to images: the downloader, its consent and its safety."""
