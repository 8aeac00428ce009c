//! Real servers on free ports in throw-away folders, and the means to break them
