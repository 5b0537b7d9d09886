-- How many hints Redis holds that no worker has acknowledged.
-- KEYS: active, scheduled, workers. ARGV: inflight prefix.
local depth = redis.call('llen', KEYS[1]) + redis.call('zcard', KEYS[2])
for _, worker in ipairs(redis.call('zrange', KEYS[3], 0, -1)) do
  depth = depth + redis.call('scard', ARGV[1] .. ':' .. worker)
end
return depth
