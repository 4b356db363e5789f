"""Parts of the pages that list runs: the table, the side with details and curves, the filter's words, export."""
