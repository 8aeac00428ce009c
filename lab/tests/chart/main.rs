//! The chart, by the programs that judge it: helm, a real API server, and the binary that its pods run.

mod alerts;
mod common;
mod custom;
mod gates;
mod image;
mod manifests;
mod package;
mod readme;
mod rights;
mod running;
mod server;
mod settings;
