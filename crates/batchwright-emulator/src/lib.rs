//! A local server that speaks the LLM providers' real wire protocols, with faults, virtual time and an invoice.
