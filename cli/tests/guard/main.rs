//! `leasehold run`, judged from outside: the real binary, real processes, real signals (G-1 to G-4, H-1, H-2).

mod chaos;
mod codes;
mod common;
mod deaths;
mod deleted;
mod descendants;
mod environment;
mod family;
mod handover;
mod isolation;
mod logs;
mod postgres;
mod signals;
