-- Takes back hints that still wait. What a worker has fetched already stays: its claim will fail.
-- KEYS: data, active, meta prefix. ARGV: ids. Returns how many were taken back.
local withdrawn = 0
for i = 1, #ARGV do
  if redis.call('lrem', KEYS[2], 1, ARGV[i]) == 1 then
    redis.call('hdel', KEYS[1], ARGV[i])
    redis.call('del', KEYS[3] .. ':' .. ARGV[i])
    withdrawn = withdrawn + 1
  end
end
return withdrawn
