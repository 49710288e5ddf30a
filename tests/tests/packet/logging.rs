//! What the program's logging costs.

use lb_common::{HashKey, layout};
use lb_tests::lab::{require_root, unique_name};
use lb_userspace::dataplane::{Dataplane, Pins};

/// Instructions that the kernel runs, in bytes, of a program that logs at `level`.
fn translated_size(level: Option<log::Level>) -> u32 {
    let root = format!("/sys/fs/bpf/lb-{}", unique_name("logging"));
    let mut dataplane = Dataplane::load(root.as_ref(), HashKey::default(), layout::AFFINITY_CLIENTS, level)
        .expect("the program can be loaded");
    let program = dataplane.program().expect("the program is loaded");
    let size = program.info().expect("the kernel knows the program").size_translated().expect("it tells the size");
    drop(dataplane);
    Pins::existing(root.as_ref())
        .expect("nobody else has the pins")
        .expect("they are there")
        .remove()
        .expect("they go");
    size
}

#[test]
fn with_logging_off_the_verifier_takes_its_code_out() {
    if !require_root() {
        return;
    }
    let (off, on) = (translated_size(None), translated_size(Some(log::Level::Debug)));
    assert!(off < on, "{off} bytes with logging off, {on} with it on");
}
