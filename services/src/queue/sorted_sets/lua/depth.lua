-- How many hints the queue holds.
-- KEYS: waiting, fetched. ARGV: for how many ms a fetched hint is held.
local time = redis.call('time')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
return redis.call('zcard', KEYS[1]) + redis.call('zcount', KEYS[2], '(' .. (now - ARGV[1]), now)
