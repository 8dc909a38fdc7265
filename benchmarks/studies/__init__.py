"""What each study of benchmarks/ runs, keeps, and says: its cells, its raw figures, its tables and its pictures."""
