//! The lease contract, the protocol as a pure step function, and the elector that drives it
