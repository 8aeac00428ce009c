//! docs/operating.md, and the restore of docs/kubernetes.md, line by line: each trouble is made with real workers on a real Postgres, the page's commands are
//! run as they stand there, and what it says about them must come true.

mod by_hand;
mod kubernetes;
mod lag;
mod leaders;
mod metrics;
mod page;
mod planning;
mod restores;
mod sidecars;
mod site;
