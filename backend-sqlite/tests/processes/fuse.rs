//! The smallest FUSE file system: an empty folder. Mounted through `/dev/fuse`, with no library.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::mount::{MountFlags, mount as mount_fs};

/// The number of requests to it, by kind.
#[derive(Default)]
pub struct Requests {
    answered: AtomicUsize,
    created: AtomicUsize,
}

impl Requests {
    pub fn answered(&self) -> usize {
        self.answered.load(Ordering::SeqCst)
    }

    pub fn created(&self) -> usize {
        self.created.load(Ordering::SeqCst)
    }
}

// Request codes of the FUSE protocol, version 7.
const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const MKNOD: u32 = 8;
const STATFS: u32 = 17;
const INIT: u32 = 26;
const CREATE: u32 = 35;

const ENOENT: i32 = 2;
const ENOSYS: i32 = 38;

/// Mounts it over `folder`; served by a thread for as long as this process lives.
pub fn mount(folder: &Path) -> Arc<Requests> {
    let device = OpenOptions::new().read(true).write(true).open("/dev/fuse").expect("/dev/fuse");
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0\0", device.as_raw_fd());
    let options = std::ffi::CStr::from_bytes_with_nul(options.as_bytes()).expect("one nul");
    mount_fs("empty", folder, "fuse", MountFlags::NOSUID | MountFlags::NODEV, Some(options))
        .expect("a mount");
    let requests = Arc::new(Requests::default());
    let counts = requests.clone();
    std::thread::spawn(move || serve(device, &counts));
    requests
}

fn serve(mut device: File, requests: &Requests) {
    let mut buffer = vec![0; 256 * 1024];
    while let Ok(length) = device.read(&mut buffer) {
        let request = &buffer[..length];
        let code = u32::from_ne_bytes(request[4..8].try_into().expect("a header"));
        let unique = &request[8..16];
        requests.answered.fetch_add(1, Ordering::SeqCst);
        let answer = match code {
            FORGET => continue,
            INIT => Ok(init()),
            GETATTR => Ok(attributes_of_the_root()),
            STATFS => Ok(vec![0; 80]),
            LOOKUP => Err(ENOENT),
            MKNOD | CREATE => {
                requests.created.fetch_add(1, Ordering::SeqCst);
                Err(ENOSYS)
            }
            _ => Err(ENOSYS),
        };
        let (error, body) = match answer {
            Ok(body) => (0, body),
            Err(error) => (-error, Vec::new()),
        };
        let mut reply = Vec::new();
        reply.extend(u32::try_from(16 + body.len()).expect("short").to_ne_bytes());
        reply.extend(error.to_ne_bytes());
        reply.extend(unique);
        reply.extend(body);
        device.write_all(&reply).expect("the kernel takes the answer");
    }
}

/// `fuse_init_out` of version 7.23.
fn init() -> Vec<u8> {
    let mut body = Vec::new();
    for number in [7_u32, 23, 65_536, 0, 0, 65_536, 1] {
        body.extend(number.to_ne_bytes());
    }
    body.resize(64, 0);
    body
}

/// `fuse_attr_out`: valid for no time, inode 1, a folder that all may write.
fn attributes_of_the_root() -> Vec<u8> {
    let mut body = vec![0; 104];
    body[16..24].copy_from_slice(&1_u64.to_ne_bytes());
    body[76..80].copy_from_slice(&0o40_777_u32.to_ne_bytes());
    body[80..84].copy_from_slice(&2_u32.to_ne_bytes());
    body
}
