//! Paired micro-benchmarks and whole-system races
