#!/bin/busybox sh
# What the machine does when it starts: it opens GUE on port 6080, of both families, and serves its name at the virtual IPs.
PATH=/bin
busybox mount -t proc proc /proc
busybox mount -t sysfs sysfs /sys
busybox mount -t devtmpfs devtmpfs /dev
for attempt in 1 2 3 4; do
    for module in /modules/*; do
        busybox insmod "$module" 2> /dev/null
    done
done
for key in all default; do
    echo 0 > /proc/sys/net/ipv4/conf/$key/rp_filter
    echo 0 > /proc/sys/net/ipv6/conf/$key/accept_dad
done
/bin/ip link set lo up
/bin/ip link set eth0 mtu 1600 up
for address in @GUEST@; do
    /bin/ip address add "$address" dev eth0
done
for address in @HOST@; do
    /bin/ip route add default via "$address"
done
for address in @VIRTUAL_IPS@; do
    /bin/ip address add "$address" dev lo
done
/bin/ip fou add port 6080 gue
/bin/ip -6 fou add port 6080 gue
# `ip6tnl0` takes IPv6 only.
/bin/ip link add any6 type ip6tnl mode any local @GUEST6@ remote @BALANCER6@
for tunnel in tunl0 sit0 any6; do
    /bin/ip link set "$tunnel" up
    echo 0 > /proc/sys/net/ipv4/conf/$tunnel/rp_filter
done
echo guest > /www/index.html
busybox httpd -h /www -p 80
echo the machine is ready
while true; do
    busybox sleep 1000
done
