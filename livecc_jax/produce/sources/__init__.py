"""Where videos come from: folders as yt-dlp leaves them, JSON lists, globs and buckets.

`listing.list_sources` names the sources in order without reading their metadata; `read.read_source`
reads one of them, in any worker.
"""
