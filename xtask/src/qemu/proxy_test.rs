// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#![allow(clippy::arithmetic_side_effects, clippy::as_conversions)]

use super::*;

const LIMIT: Duration = Duration::from_secs(20);

struct Setup {
    folder: tempfile::TempDir,
    target: UnixListener,
    proxy: Proxy,
}

fn setup() -> Setup {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let target = UnixListener::bind(at("target")).unwrap();
    let proxy = Proxy::start(Orders::default(), &at("proxy"), &at("target"), folder.path()).unwrap();
    Setup { folder, target, proxy }
}

impl Setup {
    fn connection(&self) -> (UnixStream, UnixStream) {
        let source = UnixStream::connect(self.folder.path().join("proxy")).unwrap();
        let (target, _) = self.target.accept().unwrap();
        for end in [&source, &target] {
            end.set_read_timeout(Some(LIMIT)).unwrap();
        }
        (source, target)
    }
}

fn rest(mut stream: &UnixStream) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    all
}

#[test]
fn both_directions_of_every_connection_are_passed_on_and_kept() {
    let setup = setup();
    // More than any socket buffer holds, and not a multiple of the relay's buffer.
    let long: Vec<u8> = (0..3_000_001u32).map(|number| (number % 251) as u8).collect();
    let (first_source, first_target) = setup.connection();
    let (second_source, second_target) = setup.connection();
    thread::scope(|scope| {
        scope.spawn(|| {
            (&first_source).write_all(&long).unwrap();
            first_source.shutdown(Shutdown::Write).unwrap();
        });
        assert!(rest(&first_target) == long);
    });
    // The direction back lives on after the end of the other.
    (&first_target).write_all(b"done").unwrap();
    drop(first_target);
    assert_eq!(rest(&first_source), b"done");
    drop(first_source);
    (&second_source).write_all(b"second").unwrap();
    drop(second_source);
    assert_eq!(rest(&second_target), b"second");
    drop(second_target);
    assert_eq!(setup.proxy.forward_bytes(), long.len() as u64 + 6);
    let recordings = setup.proxy.finish(LIMIT).unwrap();
    let kept: Vec<_> = recordings
        .iter()
        .map(|one| (std::fs::read(&one.forward).unwrap(), std::fs::read(&one.back).unwrap()))
        .collect();
    assert!(kept == [(long, b"done".to_vec()), (b"second".to_vec(), Vec::new())]);
}

#[test]
fn a_source_does_not_wait_for_a_target_that_does_not_listen() {
    let setup = setup();
    let (source, target) = setup.connection();
    source.set_write_timeout(Some(LIMIT)).unwrap();
    // Many times what the sockets on the way hold.
    let long = vec![7; 16 << 20];
    (&source).write_all(&long).unwrap();
    drop(source);
    assert!(rest(&target) == long);
}

#[test]
fn the_end_of_the_target_reaches_the_source() {
    let setup = setup();
    let (source, target) = setup.connection();
    drop(target);
    assert_eq!(rest(&source), b"");
    // The first bytes find out, at the latest the ones after them are refused.
    let refused = (0..1000).any(|_| {
        thread::sleep(Duration::from_millis(1));
        (&source).write_all(b"x").is_err()
    });
    assert!(refused);
}

#[test]
fn a_cut_is_seen_by_both_and_nobody_gets_through_any_more() {
    let setup = setup();
    let (source, target) = setup.connection();
    (&source).write_all(b"begun").unwrap();
    let mut begun = [0; 5];
    (&target).read_exact(&mut begun).unwrap();
    setup.proxy.cut();
    assert_eq!((rest(&source), rest(&target)), (Vec::new(), Vec::new()));
    setup.target.set_nonblocking(true).unwrap();
    if let Ok(late) = UnixStream::connect(setup.folder.path().join("proxy")) {
        drop((late, setup.proxy.finish(LIMIT)));
    }
    assert!(setup.target.accept().is_err());
}

#[test]
fn a_target_that_is_not_there_looks_like_one_that_hangs_up() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let proxy = Proxy::start(Orders::default(), &at("proxy"), &at("nowhere"), folder.path()).unwrap();
    let source = UnixStream::connect(at("proxy")).unwrap();
    source.set_read_timeout(Some(LIMIT)).unwrap();
    assert_eq!(rest(&source), b"");
    assert_eq!(proxy.finish(LIMIT), Ok(Vec::new()));
}

#[test]
fn a_connection_that_stays_open_is_told() {
    let setup = setup();
    let _connection = setup.connection();
    let error = setup.proxy.finish(Duration::from_millis(30)).unwrap_err();
    assert!(error.contains("2 directions"), "{error}");
}

#[test]
fn what_cannot_be_recorded_is_not_passed_on() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (speaker, from) = UnixStream::pair().unwrap();
    let (to, hearer) = UnixStream::pair().unwrap();
    (&speaker).write_all(b"secret").unwrap();
    let direction = Direction::new(from, to);
    let error = direction.record(Full).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    direction.pass_on(tempfile::tempfile().unwrap(), &AtomicU64::new(0), None, || true).unwrap();
    assert_eq!(rest(&hearer), b"");
    assert_eq!(rest(&speaker), b"");
}
