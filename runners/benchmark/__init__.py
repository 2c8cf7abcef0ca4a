"""The benchmark behind `runners.bench` and `runners.report`; docs/benchmark.md describes the measures.

suites -> cells (batched_seeds) -> executors -> schedule -> results -> scores, statistics -> report (standings,
findings, pictures, tables).
"""
