// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Lists the devices a vfio driver is bound to: `cargo run --example list_devices`.

use vfio_uapi::open;

fn main() -> Result<(), vfio_uapi::Error> {
    let devices = open::discover()?;
    if devices.is_empty() {
        println!("no device of this machine is bound to a vfio driver");
    }
    for device in devices {
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
        let number = |value: Option<u16>| value.map_or_else(|| "-".to_owned(), |id| format!("{id:04x}"));
        let node = device.cdev.as_ref().or(device.group_node.as_ref());
        println!(
            "{:5} {:36} driver {} id {}:{} type {} node {}",
            device.bus,
            device.name,
            text(&device.driver),
            number(device.vendor_id),
            number(device.device_id),
            text(&device.mdev_type),
            node.map_or_else(|| "-".to_owned(), |node| node.display().to_string()),
        );
    }
    Ok(())
}
