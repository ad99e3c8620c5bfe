//! What the agent uses and what is left: memory and CPU time from `/proc`, free disk from the file system.

use std::io;
use std::path::Path;

use flotilla_protocol::bundle::Resources;

/// Ticks per second of `/proc/*/stat`: `USER_HZ` is 100 in the ABI of x86, ARM and RISC-V Linux alike.
const USER_HZ: u64 = 100;

/// The agent's own use now. `data` is a path on the disk that is asked about, `spool_bytes` what the spool holds.
pub fn measure(data: &Path, spool_bytes: u64) -> io::Result<Resources> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    Ok(Resources {
        rss_bytes: kib_line(&status, "VmRSS:").ok_or_else(|| unreadable("VmRSS in /proc/self/status"))?,
        cpu_ms: cpu_ms(&stat).ok_or_else(|| unreadable("CPU times in /proc/self/stat"))?,
        disk_free_bytes: disk_free_bytes(data)?,
        spool_bytes,
    })
}

/// Memory of the machine.
pub fn ram_bytes() -> io::Result<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo")?;
    kib_line(&meminfo, "MemTotal:").ok_or_else(|| unreadable("MemTotal in /proc/meminfo"))
}

/// What an ordinary user may still write on the disk that holds `path`.
pub fn disk_free_bytes(path: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(path)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

fn unreadable(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("cannot read {what}"))
}

/// Bytes of a line like `VmRSS:     1234 kB`.
fn kib_line(text: &str, key: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(key))?;
    let kib: u64 = rest.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}

/// User and system time, fields 14 and 15; the process's name, field 2, may hold blanks and parentheses itself.
fn cpu_ms(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) * 1000 / USER_HZ)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_read() {
        assert_eq!(kib_line("Name:\tx\nVmRSS:\t    12 kB\n", "VmRSS:"), Some(12 * 1024));
        assert_eq!(kib_line("VmRSS:\tmany kB\n", "VmRSS:"), None);
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 250 50 9 9 20 0 1 0 100 1000 100";
        assert_eq!(cpu_ms(stat), Some(3000));
    }

    #[test]
    fn this_machine_answers() {
        let resources = measure(Path::new("/"), 7).unwrap();
        assert!(resources.rss_bytes > 100_000 && resources.disk_free_bytes > 0);
        assert_eq!(resources.spool_bytes, 7);
        assert!(ram_bytes().unwrap() > resources.rss_bytes);
    }
}
