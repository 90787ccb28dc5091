"""Many experiments of one state directory: listed, found, counted, with an index as a cache."""
