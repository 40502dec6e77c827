//! Sources, templates, jobs and sinks: a file in, a results file out.
