"""The report of a run: `data` collects its content as JSON, `page` lays it out, `advice` says what to
change where little is left."""
