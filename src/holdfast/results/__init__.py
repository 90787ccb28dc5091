"""What processes computed: accepted, kept, read row by row, averaged, aggregated."""
