"""The benchmark behind `runners.bench` and `runners.report`; docs/benchmark.md says what is measured and how.

suites -> cells (stack) -> engines -> sweep -> results; scores, statistics, standings and findings say what these mean;
pictures and tables show them.
"""
