//! The leasehold binary: workers, the guard and the operator's commands
