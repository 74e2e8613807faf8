"""Which ranking answers best, by what people judged: the file of judgments, and the measures that pyvespa computes."""
