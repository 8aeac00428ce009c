//! The real binary: its settings, what it refuses, and the operator's commands.

mod all_at_once;
mod arguments;
mod bad_input;
mod common;
mod config;
mod k8s;
mod k8s_proxies;
mod logs;
mod manual;
mod migrate;
mod operator;
mod plan;
mod prepare_folder;
mod printed;
mod role;
mod shim;
mod shutdown;
mod status;
mod store;
mod terminal;
mod unknown;
