#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lease_fuzz::judge("etcd", bytes));
