// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use std::sync::mpsc;

use super::*;

/// A thread of that name that sleeps until told, and only once it has its name.
fn sleeper(name: &str) -> (mpsc::Sender<()>, thread::JoinHandle<()>) {
    let (tell, told) = mpsc::channel::<()>();
    let (say, ready) = mpsc::channel();
    let handle = thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            say.send(()).unwrap();
            let _ = told.recv();
        })
        .unwrap();
    ready.recv().unwrap();
    (tell, handle)
}

/// Until it sleeps, on a machine that may be busy.
fn wait_until_lonely(process: u32) {
    for _ in 0..1000 {
        if lonely(process).is_some() {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
    panic!("it does not come to sleep");
}

/// One test, because the threads are all of this process.
#[test]
fn only_a_migration_thread_sleeps_for_good_that_nobody_can_wake() {
    let process = std::process::id();
    assert!(!sleeps_for_good(process), "nothing migrates");

    let (migration, thread) = sleeper(MIGRATION);
    let (sender, sending) = sleeper("mig/src/send_1");
    assert!(!sleeps_for_good(process), "there is one who could wake it");

    drop(sender);
    sending.join().unwrap();
    wait_until_lonely(process);
    assert!(sleeps_for_good(process));

    drop(migration);
    thread.join().unwrap();
    assert!(!sleeps_for_good(process), "it has ended");

    let (stop, stopped) = mpsc::channel::<()>();
    let busy = thread::Builder::new().name(MIGRATION.to_owned());
    let busy =
        busy.spawn(move || while stopped.recv_timeout(BETWEEN_LOOKS / 4) == Err(mpsc::RecvTimeoutError::Timeout) {});
    wait_until_lonely(process);
    assert!(!sleeps_for_good(process), "it wakes now and then");
    drop(stop);
    busy.unwrap().join().unwrap();
}
