"""The record of clusters: who sent what when, and what became of it. Pure data, bounded memory."""
