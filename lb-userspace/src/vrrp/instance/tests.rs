//! The state machine, state by state.
