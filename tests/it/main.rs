//! Tests of the parts against real servers, one module per part.

mod queue;
