//! What people type wrongly: every setting, every form of URL. Most of it is read in this process, by the very code that
//! the binary begins with.

mod forms;
mod secrets;
mod settings;
mod table;
