-- The workers that gave no sign of life within the expiry of their key: Redis' clock decides, not a worker's.
-- KEYS: workers. ARGV: alive prefix. Returns their names.
local silent = {}
for _, worker in ipairs(redis.call('zrange', KEYS[1], 0, -1)) do
  if redis.call('exists', ARGV[1] .. ':' .. worker) == 0 then
    table.insert(silent, worker)
  end
end
return silent
